"""Tables of several turns."""

from loadtests.quartiles import table


def test_the_table_has_medians_and_quartiles() -> None:
    head, _, line = table("ms", ["a", "b"], {("429", name): [1.0, 2.0, 3.0] for name in "ab"}).splitlines()
    assert head == "| ms | a | b |"
    assert line == "| 429 | 2.00 (1.00 to 3.00) | 2.00 (1.00 to 3.00) |"
