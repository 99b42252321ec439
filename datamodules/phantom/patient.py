"""One patient of the phantom: image, annotation and posterior of both frames."""

from __future__ import annotations

from dataclasses import dataclass

from datamodules.phantom.anatomy import FRAMES, Anatomy, draw_anatomy
from datamodules.phantom.annotator import Annotation, annotation
from datamodules.phantom.heart import HeartModel
from datamodules.phantom.random_field import Floats, stream
from datamodules.phantom.render import draw_scene, render
from datamodules.phantom.settings import CardiacPhantom


@dataclass(frozen=True)
class Patient:
    """A patient's frames.

    Args:
        anatomy: The patient.
        model: The heart's mean shapes.
        images: Image of each frame ``(X, Y, Z)``, keyed ED and ES.
        annotations: What draws the labels of each frame.
    """

    anatomy: Anatomy
    model: HeartModel
    images: dict[str, Floats]
    annotations: dict[str, Annotation]


def make_patient(
    settings: CardiacPhantom,
    *,
    number: int,
    group: str,
    seed: int = 0,
    header_fault: bool = False,
    late_ed: bool = False,
) -> Patient:
    """Draw a patient; it depends on the arguments alone, not on other patients."""
    anatomy = draw_anatomy(
        settings,
        number=number,
        group=group,
        rng=stream(seed, number, "anatomy"),
        header_fault=header_fault,
        late_ed=late_ed,
    )
    model = HeartModel(anatomy, stream(seed, number, "heart"))
    scene = draw_scene(model, settings, stream(seed, number, "scene"))
    annotations, images = {}, {}
    for frame in FRAMES:
        annotations[frame] = annotation(
            model(frame, scene.slices).shifted(scene.offset),
            x=scene.x,
            y=scene.y,
            basal=anatomy.basal[frame],
            spacing=anatomy.spacing,
            settings=settings,
        )
        images[frame] = render(
            model,
            scene,
            frame=frame,
            settings=settings,
            rng=stream(seed, number, f"image {frame}"),
        )
    return Patient(anatomy, model, images, annotations)
