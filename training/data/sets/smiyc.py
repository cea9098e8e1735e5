"""SegmentMeIfYouCan: RoadAnomaly21 and RoadObstacle21, the validation images (10 and 30).

Chan et al., "SegmentMeIfYouCan: a benchmark for anomaly segmentation". Layout of the downloads:

    dataset_AnomalyTrack/images/<id>.jpg     dataset_ObstacleTrack/images/<id>.webp
    <either>/labels_masks/<id>_labels_semantic.png    0 known, 1 anomaly or obstacle, 255 void

Only ``validation…`` images have a mask; test images are left out. Mask2Anomaly's folders
``RoadAnomaly21`` and ``RoadObsticle21`` hold the same images (``training.data.sets.mask_folders``).
"""

from __future__ import annotations

from .mask_folders import AnomalySet


class RoadAnomaly21(AnomalySet):
    """Anomalies of any size anywhere in street images."""

    title = "RoadAnomaly21"
    track = "anomaly"
    folders = ("road_anomaly_21", "dataset_AnomalyTrack", "RoadAnomaly21")


class RoadObstacle21(AnomalySet):
    """Small obstacles on the road; all else than the road is void."""

    title = "RoadObstacle21"
    track = "obstacle"
    folders = ("road_obstacle_21", "dataset_ObstacleTrack", "RoadObsticle21", "RoadObstacle21")
