"""The version of this package, for modules that the package's own public names import."""

VERSION = "0.2.0"
