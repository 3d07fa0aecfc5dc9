"""A client of a Trilemma server.

>>> from trilemma import Client
>>> with Client("http://127.0.0.1:8000") as client:
...     made = client.generate("ddim", steps=20, seed=7, class_label=3)
>>> made.images[0].save("three.png")
"""

from trilemma.answers import Generated, Refused, Step
from trilemma.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "Generated", "Refused", "Step"]
