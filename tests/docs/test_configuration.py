"""The page of settings is what its command writes."""

from docs.configuration import PAGE, page


def test_the_page_of_settings_is_the_one_that_its_command_writes() -> None:
    assert PAGE.read_text() == page(), "run: python -m docs.configuration"
