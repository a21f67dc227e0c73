"""The Segment Anything Model, from the segment-anything package."""
