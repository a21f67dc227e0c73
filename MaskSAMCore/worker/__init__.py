"""Worker process of Slicer's module: JSON-RPC 2.0 on stdin and stdout, one message per line.

Run it as ``python -m MaskSAMCore.worker``. `protocol` holds the messages;
`MaskSAMSlicerLib.worker.client` is the other end of the pipe.
"""

# Environment variable with a folder of packages that are imported in preference to all others.
PACKAGES_VARIABLE = "MASKSAM_PACKAGES"
