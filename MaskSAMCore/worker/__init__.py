"""The process that Slicer talks to: JSON-RPC 2.0 on stdin and stdout, one message a line.

Run it as ``python -m MaskSAMCore.worker``. The messages are those of `protocol` and `jobs`;
`MaskSAMSlicerLib.worker.client` is the other end.
"""
