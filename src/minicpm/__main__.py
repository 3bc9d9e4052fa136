"""`python -m minicpm` is the same program as `minicpm`."""

from minicpm.cli.main import main

if __name__ == "__main__":
    main()
