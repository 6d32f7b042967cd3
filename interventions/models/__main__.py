"""`python -m interventions.models`: what it does stands in `interventions.methods.check_model`, above the models that it imports."""

from interventions.methods.check_model import main

if __name__ == "__main__":
    main()
