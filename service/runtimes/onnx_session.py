"""ONNX Runtime's session of a graph, on the CPU."""

import onnxruntime as ort

from bundle.graph import Graph


def open_session(graph: Graph, threads: int) -> ort.InferenceSession:
    """Opens a graph from memory: it has no folder, and so can read no other file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.load_model_format", "ONNX")  # never the format of ONNX Runtime's own
    if graph.weights_file:
        size = len(graph.weights)
        options.add_external_initializers_from_files_in_memory([graph.weights_file], [graph.weights], [size])
    return ort.InferenceSession(graph.content, options, ["CPUExecutionProvider"])
