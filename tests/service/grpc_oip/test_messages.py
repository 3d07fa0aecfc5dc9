"""The descriptors are those of the .proto, and the .proto has the messages of NVIDIA's client on the wire."""

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from service.grpc_oip import messages
from tests.service.grpc_oip import compiled

FILE = messages.SERVICE.file
THEIRS = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}


def test_the_descriptors_are_what_protoc_makes_of_the_proto() -> None:
    assert compiled.descriptor() == messages.DESCRIPTOR_FILE.read_bytes()


@pytest.mark.parametrize("name", sorted(FILE.message_types_by_name))
def test_every_field_has_the_number_and_type_of_tritons(name: str) -> None:
    require_same(FILE.message_types_by_name[name], THEIRS[name])


def require_same(own: Descriptor, theirs: Descriptor) -> None:
    assert own.full_name == theirs.full_name
    for field in own.fields:
        other = theirs.fields_by_number[field.number]
        assert (field.name, field.type, field.is_repeated) == (other.name, other.type, other.is_repeated)
        names = [each.containing_oneof and each.containing_oneof.name for each in (field, other)]
        assert names[0] == names[1]
        if field.message_type is not None:
            assert field.message_type.full_name == other.message_type.full_name
    for nested in own.nested_types:
        require_same(nested, theirs.nested_types_by_name[nested.name])


def test_the_calls_and_the_datatypes_are_tritons() -> None:
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert messages.SERVICE.full_name == theirs.full_name
    for method in messages.SERVICE.methods:
        other = theirs.methods_by_name[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name
        assert (method.client_streaming, method.server_streaming) == (other.client_streaming, other.server_streaming)
    own: EnumDescriptor = FILE.enum_types_by_name["DataType"]
    numbers = {value.name: value.number for value in model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values}
    assert {value.name: value.number for value in own.values}.items() <= numbers.items()
