"""A client of a Trilemma server.

>>> from trilemma import Client
>>> with Client("http://127.0.0.1:8000") as client:
...     generated = client.generate("ddim", steps=20, seed=7, class_label=3)
>>> generated.images[0].save("three.png")
"""

from trilemma.answers import Generated, Inverted, Likelihood, Step
from trilemma.client import AsyncClient, Client
from trilemma.errors import Lost, Refused, TrilemmaError, Unexpected

__all__ = [
    "AsyncClient",
    "Client",
    "Generated",
    "Inverted",
    "Likelihood",
    "Lost",
    "Refused",
    "Step",
    "TrilemmaError",
    "Unexpected",
]
