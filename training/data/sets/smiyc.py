"""SegmentMeIfYouCan: RoadAnomaly21 and RoadObstacle21, the validation images (10 and 30).

Chan et al., "SegmentMeIfYouCan: a benchmark for anomaly segmentation". Layout of the downloads:

    dataset_AnomalyTrack/images/<id>.jpg     dataset_ObstacleTrack/images/<id>.webp
    <either>/labels_masks/<id>_labels_semantic.png    0 known, 1 anomaly or obstacle, 255 void

Only ``validation…`` images have a mask; test images are left out. Counted as the benchmark's own
splits ``AnomalyTrack-validation`` and ``ObstacleTrack-validation``:

- 255 is void; on the obstacle track that is all but the road, the region of interest.
- The obstacle track leaves out the images whose names begin with ``validation_19`` or
  ``validation_21`` to ``validation_29``.
- Component figures drop segments of less than 500 (obstacle track: 50) pixels and take anomalies of
  less than 100 (10) for void (``training.metrics.component``).

The benchmark bins the scores of every image: its pixel figures are those of ``--protocol smiyc``;
the exact ones differ by about 0.001. Its published tables are of the hidden test images.

Mask2Anomaly's folders ``RoadAnomaly21`` and ``RoadObsticle21`` hold the same images
(``training.data.sets.mask_folders``).
"""

from __future__ import annotations

from .mask_folders import AnomalySet


class RoadAnomaly21(AnomalySet):
    """Anomalies of any size anywhere in street images."""

    title = "RoadAnomaly21"
    track = "anomaly"
    size = 10
    counted = (
        "counted as SegmentMeIfYouCan's AnomalyTrack-validation: in components, segments below 500 "
        "pixels are dropped and anomalies below 100 are void"
    )
    folders = ("road_anomaly_21", "dataset_AnomalyTrack", "RoadAnomaly21")


class RoadObstacle21(AnomalySet):
    """Small obstacles on the road; all else than the road is void."""

    title = "RoadObstacle21"
    track = "obstacle"
    size = 30
    counted = (
        "counted as SegmentMeIfYouCan's ObstacleTrack-validation: all but the road is void; in "
        "components, segments below 50 pixels are dropped and obstacles below 10 are void"
    )
    left_out = ("validation_19", *(f"validation_2{digit}" for digit in range(1, 10)))
    folders = ("road_obstacle_21", "dataset_ObstacleTrack", "RoadObsticle21", "RoadObstacle21")
