"""Worker process of Slicer's module: JSON-RPC 2.0 on stdin and stdout, one message per line.

Run it as ``python -m MaskSAMCore.worker``. `protocol` holds the messages;
`MaskSAMSlicerLib.worker.client` is the other end of the pipe.
"""

# Environment variable with the folder of packages that come before all others.
PACKAGES_VARIABLE = "MASKSAM_PACKAGES"
