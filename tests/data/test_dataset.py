"""FaceDataset: torch's own interface; what a picture becomes depends on seed, epoch and the picture alone."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from striped import datasets, fresh
from torch.utils.data import DataLoader

from agehelpers.config import load_config
from agehelpers.data.augmentation import STD, whole_pictures
from agehelpers.data.dataset import FaceDataset, collate, on_device
from agehelpers.data.faces import prepare_faces
from agehelpers.photos.estimator import Estimator
from agehelpers.training.trainer import Trainer

CONFIG = load_config("laptop", {"image_size": 32, "batch_size": 8, "erase": 0.5, "augment_from": 1.0,
                                "grow_from": None, "rotation": 15, "contrast": 0.2})
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 36, 36, 3), dtype=np.uint8)


def dataset(rows=range(20), config=CONFIG, augment=True, pixels=PIXELS, **more) -> FaceDataset:
    """Pictures in `rows`, whose ages are their rows."""
    rows = np.array(rows)
    return FaceDataset(pixels, rows, rows.astype(np.float32), config, augment=augment, **more)


def by_age(batches) -> dict[float, torch.Tensor]:
    """What each picture became; its age says which one it is."""
    return {float(age): image for images, ages in batches for image, age in zip(images, ages, strict=True)}


def same(some, others) -> bool:
    """Whether the pictures that are in both came out equal, bit for bit."""
    shared = some.keys() & others.keys()
    return bool(shared) and all(torch.equal(some[age], others[age]) for age in shared)


@pytest.mark.parametrize("augment", [False, True])
def test_one_picture_and_a_batch_agree(augment):
    faces = dataset(range(3, 15), augment=augment, epoch=2)
    batch = faces.__getitems__([5, 0, 11, 0])
    assert len(faces) == 12 and len(batch) == 4
    for place, (image, age) in zip([5, 0, 11, 0], batch, strict=True):
        alone, its_age = faces[place]
        assert alone.shape == (3, 32, 32) and alone.dtype == torch.float32
        assert its_age.shape == () and its_age == age == place + 3
        assert torch.equal(alone, image)
    unchanged = torch.equal(batch.tensors[0], whole_pictures(PIXELS[[8, 3, 14, 3]], 32))
    assert unchanged is not augment


@pytest.mark.parametrize(("pictures", "size", "batches"), [
    (17, 8, [8, 9]), (18, 8, [8, 8, 2]), (16, 8, [8, 8]), (9, 8, [9]), (1, 8, [1]), (3, 1, [1, 1, 1]), (2, 8, [2])])
def test_no_picture_is_left_alone_in_a_batch(pictures, size, batches):
    faces = dataset(range(pictures), dataclasses.replace(CONFIG, batch_size=size))
    found = list(faces.training_batches(0))
    assert [len(ages) for _, ages in found] == batches and faces.steps == len(batches)
    assert sorted(torch.cat([ages for _, ages in found]).tolist()) == list(range(pictures))
    later = list(faces.training_batches(0, first=1))
    assert [len(ages) for _, ages in later] == batches[1:]


def test_attributes_follow_their_pictures():
    codes = np.stack([np.arange(20), np.arange(20) % 3 - 1], 1)
    faces = dataset(attributes=codes)
    seen = [(age, code) for images, ages, attributes in faces.training_batches(1)
            for age, code in zip(ages.tolist(), attributes.tolist(), strict=True)]
    assert sorted(seen) == [(float(row), codes[row].tolist()) for row in range(20)] != seen
    plain = list(DataLoader(faces, batch_size=6))
    assert [len(batch) for batch in plain] == [3] * 4 and plain[0][2].dtype == torch.int64


@pytest.mark.parametrize("augment", [False, True])
def test_the_plain_data_loader_gives_the_same_pictures(augment):
    faces = dataset(augment=augment)
    plain = list(DataLoader(faces, batch_size=6, shuffle=True))
    assert [(tuple(images.shape), tuple(ages.shape)) for images, ages in plain] == [
        ((6, 3, 32, 32), (6,))] * 3 + [((2, 3, 32, 32), (2,))]
    assert plain[0][1].dtype == torch.float32
    ours = by_age(faces.training_batches(0) if augment else faces.evaluation_batches())
    assert by_age(plain).keys() == ours.keys() == set(range(20)) and same(by_age(plain), ours)


def test_a_batch_of_one_repeated_picture_comes_out_all_different():
    """Distinct files with the same content: each is a picture of its own."""
    faces = dataset(range(8), pixels=np.repeat(PIXELS[:1], 8, axis=0))
    (images, _), = faces.training_batches(0)
    for one, other in itertools.combinations(images, 2):
        assert (one - other).abs().max() > 0.05


def test_a_picture_does_not_depend_on_its_batch_on_the_order_or_on_a_resume():
    faces = dataset()
    whole = by_age(faces.training_batches(3))
    assert len(whole) == 20
    assert same(whole, by_age(faces.training_batches(3, first=1))) and len(by_age(faces.training_batches(3, 1))) == 12
    for size in (1, 3, 20):
        assert same(whole, by_age(dataset(config=dataclasses.replace(CONFIG, batch_size=size)).training_batches(3)))
    faces.set_epoch(3)
    assert same(whole, by_age([collate(faces.__getitems__(list(range(20))[::-1]))]))
    assert same(whole, by_age([[image[None], age[None]] for image, age in map(faces.__getitem__, range(20))]))


def test_a_picture_does_not_depend_on_what_else_is_in_its_part():
    whole = by_age(dataset(range(30)).training_batches(1))
    assert same(whole, by_age(dataset([17, 4, 29]).training_batches(1)))
    assert same(whole, by_age(dataset(range(10, 40)).training_batches(1)))


def test_limit_changes_which_pictures_there_are_not_what_they_become(faces):
    config = load_config("ci", {"faces": str(faces), "image_size": 24, "erase": 0.5})
    few, whole = (prepare_faces(dataclasses.replace(config, limit=limit)) for limit in (24, 0))
    before, after = ({row["name"]: image for (_, row), (image, _) in zip(
        one.part("train").iterrows(), map(one.dataset("train").__getitem__, range(len(one.part("train")))),
        strict=True)} for one in (whole, few))
    assert 0 < len(after) < len(before) and same(before, after)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 and later
def test_a_picture_does_not_depend_on_the_number_of_processes():
    faces = dataset()
    alone, shared = (list(DataLoader(faces, batch_size=8, num_workers=workers, collate_fn=collate))
                     for workers in (0, 2))
    assert all(torch.equal(a, b) for one, other in zip(alone, shared, strict=True)
               for a, b in zip(one, other, strict=True))
    assert len(alone) == 3


@pytest.mark.parametrize(("seed", "epoch"), [(1, 3), (0, 4)])
def test_another_seed_or_epoch_changes_every_picture_and_the_order(seed, epoch):
    before, after = (list(dataset(config=dataclasses.replace(CONFIG, seed=s)).training_batches(e))
                     for s, e in ((0, 3), (seed, epoch)))
    old, new = by_age(before), by_age(after)
    assert old.keys() == new.keys() and not any(torch.equal(old[age], new[age]) for age in old)
    assert not torch.equal(before[0][1], after[0][1])


def test_deterministic_and_resumable_within_an_epoch():
    faces = dataset()
    first, again = list(faces.training_batches(3)), list(faces.training_batches(3))
    assert [len(ages) for _, ages in first] == [8, 8, 4] and faces.steps == 3  # a ragged last batch
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    later = list(faces.training_batches(3, first=1))
    assert torch.equal(later[0][0], first[1][0]) and torch.equal(later[0][1], first[1][1]) and len(later) == 2
    assert list(faces.training_batches(3, first=3)) == []
    ages = torch.cat([ages for _, ages in first]).tolist()
    assert sorted(ages) == list(range(20)) != ages


def test_evaluation_is_in_order_whole_and_not_random():
    faces = dataset(range(5), augment=False)
    (images, ages), = faces.evaluation_batches()
    assert ages.tolist() == [0, 1, 2, 3, 4] and torch.equal(images, whole_pictures(PIXELS[:5], 32))
    faces.set_epoch(4)
    split = list(faces.evaluation_batches(batch_size=2))
    assert [len(ages) for _, ages in split] == [2, 2, 1]
    assert torch.equal(torch.cat([images for images, _ in split]), images)


def test_batches_leave_the_global_random_state_alone():
    faces, before = dataset(), torch.get_rng_state()
    list(faces.training_batches(0)), list(faces.evaluation_batches())
    assert torch.equal(torch.get_rng_state(), before)


def test_training_pictures_grow_and_strengthen_while_evaluation_sees_the_full_size():
    config = dataclasses.replace(CONFIG, grow_from=16, epochs=4, augment_from=0.0, flip=False)
    growing, still = dataset(config=config), dataset(config=config, augment=False)
    sizes = [next(iter(growing.training_batches(epoch)))[0].shape[2] for epoch in range(4)]
    assert sizes == [16, 24, 24, 32]
    assert torch.equal(dataset(config=config)[0][0], whole_pictures(PIXELS[:1], 16)[0])  # nothing at first
    still.set_epoch(0)
    assert next(iter(still.evaluation_batches()))[0].shape[2:] == (32, 32)


def test_an_empty_part_has_no_batches():
    faces = dataset([])
    assert faces.steps == len(faces) == 0 and list(faces.training_batches(0)) == list(faces.evaluation_batches()) == []


def test_a_learners_loop_runs_on_it():
    ages = np.linspace(1, 80, 40, dtype=np.float32)
    pixels = np.broadcast_to((3 * ages).astype(np.uint8)[:, None, None, None], (40, 36, 36, 3))
    faces = FaceDataset(pixels, np.arange(40), ages, dataclasses.replace(CONFIG, brightness=0.0), augment=True)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.5)
    losses = []
    for epoch in range(15):
        faces.set_epoch(epoch)
        for images, years in DataLoader(faces, batch_size=16, shuffle=True):
            loss = (model(images)[:, 0] - years).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.4 * np.mean(losses[:3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_the_gpu_sees_the_same_pictures():
    cuda = torch.device("cuda")
    pixels = np.broadcast_to(np.linspace(0, 255, 36, dtype=np.uint8)[:, None, None], (8, 36, 36, 3)).copy()
    expected = dataset(range(8), pixels=pixels, augment=False).__getitems__(range(8)).tensors[0]
    copied = on_device(pixels, cuda)
    assert isinstance(copied, torch.Tensor) and copied.device.type == "cuda"
    for source in (pixels, copied):
        images, ages = next(iter(dataset(range(8), pixels=source, device=cuda).evaluation_batches()))
        assert images.device.type == ages.device.type == "cuda"
        difference = (images.cpu() - expected).abs() * torch.tensor(STD).view(1, 3, 1, 1)
        assert difference.max() < 3.6 / 255 and ages.tolist() == list(range(8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_the_gpu_predicts_and_learns_the_same(faces):
    """In single precision: ages within 0.1 years; the losses of twenty steps within a hundredth."""
    crops = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(faces.glob("2*.jpg"))[:16]]
    reader, ages, losses = Estimator(), [], []
    for device in ("cpu", "cuda"):
        reader.model, reader.device = reader.model.to(device), torch.device(device)
        ages.append(reader.ages(crops)["prediction"].to_numpy())
        config = load_config("ci", {"image_size": 16, "cache_size": 20, "precision": "fp32", "device": device})
        trainer, (training, _) = Trainer(fresh(config), config, torch.device(device), 20), datasets(config)
        for step in range(20):
            trainer.learn(*(part.to(device) for part in next(iter(training.training_batches(step)))))
        losses.append(float(trainer.loss.compute()))
    assert np.abs(ages[0] - ages[1]).max() <= 0.1 < np.ptp(ages[0]) and losses[1] == pytest.approx(losses[0], rel=0.01)


def test_pixels_stay_where_they_are_without_a_gpu():
    assert on_device(PIXELS, torch.device("cpu")) is PIXELS


def test_worker_processes_that_persist_see_the_epoch_change():
    faces = dataset()
    loader = DataLoader(faces, batch_size=8, num_workers=1, persistent_workers=True, collate_fn=collate)
    first = torch.cat([images for images, _ in loader])
    faces.set_epoch(3)
    second = torch.cat([images for images, _ in loader])
    del loader
    assert torch.equal(second, dataset(epoch=3).__getitems__(range(20)).tensors[0]) and not torch.equal(first, second)
