"""``slicer.app.coreIOManager()``: reads and writes files with the application's logics.

``slicer.util.loadVolume``, ``loadLabelVolume``, ``loadSegmentation``, ``loadMarkups``,
``loadModel``, ``loadTransform``, ``loadScene``, ``saveNode`` and ``saveScene`` use it, for the file
types that need no other module.
"""

from __future__ import annotations

import os

import slicer

_BY_SUFFIX = (
    ((".mrb", ".mrml"), "SceneFile"),
    ((".seg.nrrd", ".seg.nhdr", ".seg.vtm"), "SegmentationFile"),
    ((".mrk.json", ".fcsv"), "MarkupsFile"),
    ((".vtk", ".vtp", ".stl", ".ply", ".obj"), "ModelFile"),
    ((".h5", ".tfm"), "TransformFile"),
)
_VOLUME_OPTIONS = (("labelmap", 1, False), ("center", 2, False), ("singleFile", 4, False),
                   ("autoWindowLevel", 8, True), ("discardOrientation", 16, False))  # fmt: skip


class CoreIOManager:
    """Reader and writer of nodes and scenes."""

    def __init__(self, scene, application_logic):
        self._scene = scene
        self._application_logic = application_logic

    def fileType(self, path):
        """Return the type of a file by its name."""
        for suffixes, file_type in _BY_SUFFIX:
            if str(path).lower().endswith(suffixes):
                return file_type
        if str(path).lower().endswith(".nrrd") and os.path.exists(path):
            with open(path, "rb") as file:  # a segmentation may have a volume's file name
                if b"Segment0_ID" in file.read(65536):
                    return "SegmentationFile"
        return "VolumeFile"

    def fileWriterFileType(self, node, extension=""):
        """Return the type under which a node is written: its class name."""
        return node.GetClassName()

    def loadNodes(self, file_type, properties, nodes=None, messages=None):
        """Load a file, add its nodes to the collection, and return whether that succeeded."""
        path = str(properties["fileName"])
        if file_type == "SceneFile":
            return self._load_scene(path, bool(properties.get("clear", False)), messages)
        if not os.path.exists(path):
            if messages is not None:
                messages.AddMessage(0, f"{path} does not exist")
            return False
        reader = getattr(self, f"_load_{file_type.removesuffix('File').lower()}", None)
        if reader is None:
            raise NotImplementedError(f"the host cannot read a {file_type}")
        name = properties.get("name") or os.path.basename(path).split(".")[0]
        node = reader(path, name, properties)
        if node is None:
            return False
        if nodes is not None:
            nodes.AddItem(node)
        return True

    def _load_scene(self, path, clear, messages):
        if not os.path.exists(path):
            return False
        if path.lower().endswith(".mrb"):
            return bool(self._scene.ReadFromMRB(path, clear, messages))
        self._scene.SetURL(path)
        return bool(self._scene.Connect(messages) if clear else self._scene.Import(messages))

    def _load_volume(self, path, name, properties):
        options = sum(bit for key, bit, default in _VOLUME_OPTIONS if properties.get(key, default))
        return slicer.modules.volumes.logic().AddArchetypeVolume(path, name, options)

    def _load_segmentation(self, path, name, properties):
        logic = slicer.modules.segmentations.logic()
        return logic.LoadSegmentationFromFile(path, True, properties.get("name", ""))

    def _load_markups(self, path, name, properties):
        ids = slicer.modules.markups.logic().LoadMarkups(path, name)
        return self._scene.GetNodeByID(ids.split(",")[0]) if ids else None

    def _load_model(self, path, name, properties):
        return slicer.modules.models.logic().AddModel(path)

    def _load_transform(self, path, name, properties):
        return slicer.modules.transforms.logic().AddTransform(path, self._scene)

    def saveNodes(self, file_type, properties, messages=None):
        """Write one node, or the scene as an .mrb bundle, an .mrml file or a folder."""
        path = str(properties["fileName"])
        if file_type == "SceneFile":
            return self._save_scene(path, messages)
        node = self._scene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        if "useCompression" in properties:
            storage.SetUseCompression(int(properties["useCompression"]))
        return bool(storage.WriteData(node))

    def _save_scene(self, path, messages):
        if path.lower().endswith(".mrb"):
            return bool(self._scene.WriteToMRB(path, None, messages))
        if path.lower().endswith(".mrml"):
            self._scene.SetURL(path)
            return bool(self._scene.Commit(None, messages))
        os.makedirs(path, exist_ok=True)
        return bool(self._scene.SaveSceneToSlicerDataBundleDirectory(path, None, messages))
