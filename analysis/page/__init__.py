"""The parts of `report.html`: what each section holds (Python), and the page that shows it (templates, style, scripts)."""
