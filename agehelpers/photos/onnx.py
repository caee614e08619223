"""The networks as ONNX files, and ages by them: PyTorch writes them, and is not needed to read them.

    export(checkpoint, folder)            # age.onnx, aligner.onnx; needs onnx and onnxscript
    OnnxEstimator(folder)("photo.jpg")    # needs onnxruntime
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agehelpers import paths
from agehelpers.photos.find import Finder, find_faces
from agehelpers.photos.placement import SIDE
from agehelpers.photos.reader import PhotoReader

KEY = "agehelpers"  # of the metadata in age.onnx


class OnnxEstimator(PhotoReader):
    """`Estimator` without PyTorch, by ONNX Runtime on the CPU: same photos, same table.

    `folder` is what `export` wrote: age.onnx, and aligner.onnx unless only crops are to be read. FileNotFoundError,
    ValueError and ImportError say what is missing.
    """

    def __init__(self, folder: Path | str, find: Finder = find_faces) -> None:
        super().__init__(find)
        age, aligner = (Path(folder) / f"{name}.onnx" for name in ("age", "aligner"))
        self._age, known = _session(age)
        with paths.reading(age, "not written by agehelpers as age.onnx: export it anew"):
            facts = json.loads(known[KEY])
            self.pixels_size, self.image_size = facts["pixels_size"], facts["image_size"]
            self.intervals, self.look = facts["intervals"], None
            self.try_out()
        self.no_aligner = f"{aligner}: no aligner, without which only crops can be read"
        if aligner.exists():
            session = _session(aligner)[0]
            self.look = lambda views: session.run(None, {"views": views})[0]

    def years(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """See `PhotoReader`."""
        found = self._age.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
        return {output.name: years for output, years in zip(self._age.get_outputs(), found, strict=True)}


def _session(file: Path) -> tuple[Any, Mapping[str, str]]:
    """An inference session of an ONNX file, and its metadata."""
    onnxruntime = paths.needed("onnxruntime", "an ONNX file", "onnxruntime")
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; `agehelpers export` writes it")
    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class of their own in common
        raise ValueError(f"{file}: not a readable ONNX file ({str(error).splitlines()[0]})") from error
    return session, session.get_modelmeta().custom_metadata_map


def export(checkpoint: Path, folder: Path) -> list[Path]:
    """age.onnx of a checkpoint, and aligner.onnx where it has an aligner, in `folder`; batches of any size.

    age.onnx: images float32 [B, 3, H, W] (ImageNet's normalisation) to prediction [B] and, where there is one, spread
    [B], in years, mirror images and decoding included. ImportError without onnx and onnxscript.
    """
    import torch

    from agehelpers.photos.align import load_aligner
    from agehelpers.photos.estimator import Estimator

    reader = Estimator(checkpoint)
    model, head, mirrored = reader.model.cpu().eval(), reader.model.head, reader.config.flip_average

    class Ages(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            outputs = (model(images) + model(images.flip(3))) / 2 if mirrored else model(images)
            spread = head.spread(outputs)
            return (head.ages(outputs),) if spread is None else (head.ages(outputs), spread)

    side = reader.image_size
    example = torch.zeros(2, 3, side, side)
    names = ["prediction"] if head.spread(model(example)) is None else ["prediction", "spread"]
    facts = {"pixels_size": reader.pixels_size, "image_size": side, "intervals": reader.intervals}
    written = [_write(Ages(), example, "images", names, folder / "age.onnx", facts)]
    aligner = checkpoint.with_name("aligner.safetensors")
    if aligner.exists():
        views = torch.zeros(2, 3, SIDE, SIDE)
        written.append(_write(load_aligner(aligner), views, "views", ["placements"], folder / "aligner.onnx", {}))
    return written


def _write(model: Any, example: Any, given: str, names: list[str], file: Path, facts: dict[str, Any]) -> Path:
    import torch

    onnx, _ = (paths.needed(name, "the export", name) for name in ("onnx", "onnxscript"))
    batch = torch.export.Dim("batch")
    program: Any = torch.onnx.export(model.eval(), (example,), input_names=[given], output_names=names, dynamo=True,
                                dynamic_shapes=({0: batch},), verbose=False)
    proto = program.model_proto
    if not all(value.type.tensor_type.shape.dim[0].dim_param for value in (*proto.graph.input, *proto.graph.output)):
        raise ValueError(f"{file}: not written; this network was fixed to batches of {len(example)} by the export")
    onnx.helper.set_model_props(proto, {KEY: json.dumps(facts)})
    return paths.write_atomically(file, proto.SerializeToString())
