"""`python -m interventions.models`: what it does stands in `interventions.methods.check_model`, above the models that it imports."""

from pkgutil import resolve_name

if __name__ == "__main__":
    resolve_name("interventions.methods.check_model:main")()
