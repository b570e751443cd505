"""`python -m octavo …` is `octavo …`."""

from octavo.cli.main import script

if __name__ == "__main__":
    script()
