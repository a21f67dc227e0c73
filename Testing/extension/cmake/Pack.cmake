# Slicer packs here; the test installs the component that it would pack.
