"""`python -m data_prep` lists the data sets that can be read, and the command for each."""

from data_prep.tables.readers import all_readers


def main() -> None:
    """Command line."""
    for reader in all_readers().values():
        print(f"python -m data_prep.{reader.name}\n    {reader.title}: {reader.categories}; corrupt image: {reader.corrupt_image}")


if __name__ == "__main__":
    main()
