# Slicer packs the extension here; the test installs the component that would be packed.
