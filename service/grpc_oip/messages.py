"""The messages of open_inference.proto, from the descriptors that protoc made of it.

They have a pool of their own. In the default pool they would collide with those of another package that has the same
protocol in the same process, such as tritonclient.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, message_factory

DESCRIPTOR_FILE = Path(__file__).with_name("open_inference.binpb")
PACKAGE = "inference"
POOL = descriptor_pool.DescriptorPool()
POOL.AddSerializedFile(DESCRIPTOR_FILE.read_bytes())
SERVICE = POOL.FindServiceByName(f"{PACKAGE}.GRPCInferenceService")


def message(name: str) -> Any:
    """The class of that name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


InferRequest = message("ModelInferRequest")
InferResponse = message("ModelInferResponse")
StreamInferResponse = message("ModelStreamInferResponse")
