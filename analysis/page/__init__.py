"""The parts of `report.html`: the data of each section (Python), and templates, style and scripts (`assets`)."""
