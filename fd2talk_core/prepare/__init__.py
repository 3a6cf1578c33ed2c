"""Turning folders of videos and stills into tracked, cropped training clips."""
