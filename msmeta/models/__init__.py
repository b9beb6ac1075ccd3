"""Networks as pure functions of a parameter dictionary."""

from msmeta.models.conv4 import Conv4

__all__ = ["Conv4"]
