"""Age estimation from face pictures: from a folder of JPEGs to an error analysis, one module a step."""

__version__ = "0.1.0"
