"""The descriptors of the .proto, as protoc compiles them: `python -m tests.service.grpc_oip.compiled` writes them."""

import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from service.grpc_oip import messages


def descriptor() -> bytes:
    """The FileDescriptorProto of the .proto, without its comments."""
    proto = messages.DESCRIPTOR_FILE.with_suffix(".proto")
    with tempfile.NamedTemporaryFile() as file:
        options = [f"--proto_path={proto.parent}", f"--descriptor_set_out={file.name}"]
        assert protoc.main(["protoc", *options, proto.name]) == 0
        (compiled,) = FileDescriptorSet.FromString(Path(file.name).read_bytes()).file
    return compiled.SerializeToString(deterministic=True)


if __name__ == "__main__":
    messages.DESCRIPTOR_FILE.write_bytes(descriptor())
