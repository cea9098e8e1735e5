"""Every sentence the page shows, in one place: to translate the app, translate this module.

One dictionary per part of the page. Those of components that work in the browser are sent to them
as they are; ``{name}`` marks what is filled in.
"""

from __future__ import annotations

PAGE: dict[str, str] = {
    "title": "Mask2KAN",
    "intro": (
        "# Mask2KAN\n"
        "Two models look at your picture: a Kolmogorov–Arnold head on one side, a plain MLP head "
        "on the other. Each says what it sees, and glows where no class it knows explains what is "
        "there."
    ),
    "small_print": (
        "A research demonstration, not a safety device. Pictures stay on the machine that runs "
        "this page. The bundled models learnt from Cityscapes and CamVid: research only."
    ),
    "tab_compare": "Compare",
    "tab_batch": "Batch",
    "tab_kan": "KAN",
    "tab_models": "Models",
    "picture": "Picture",
    "examples": "Examples",
    "road": "Road",
    "indoor": "Indoor",
    "nothing_odd": "a normal street",
    "truth": "Ground truth (optional)",
    "truth_file": "Mask of the same size",
    "truth_note": "0 known, 1 anomaly, 255 void. Examples bring their own.",
    "truth_white": "255 means",
    "white_void": "void",
    "white_anomaly": "anomaly",
    "preset": "Preset",
    "preset_note": "Indoor needs the network once.",
    "preset_road": "Road",
    "preset_indoor": "Indoor",
    "left": "Left model",
    "right": "Right model",
    "model_note": "Or type a Hub repository id.",
    "model_note_here": "Or type a path or a Hub repository id.",
    "score": "Anomaly score",
    "score_note": "The higher, the less is explained.",
    "compare": "Compare",
    "no_models": (
        "No bundled models were found in weights/.\n"
        "Type a Hub repository id into both model fields."
    ),
    "not_taken": (
        "The app can't use what was sent: give pictures as uploaded files, and everything else as "
        "its API describes it."
    ),
}

STAGES: dict[str, str] = {
    "decode": "decode",
    "model": "model",
    "backbone": "backbone",
    "pixel_decoder": "pixel decoder",
    "transformer_decoder": "transformer decoder",
    "postprocess": "post-processing",
}

VIEWER: dict[str, str] = {
    "welcome": "Choose an example, or drop in a picture of a road.",
    "computing": "Computing…",
    "failed": "No result for this picture. The message at the top says why.",
    "not_loaded": "The result could not be loaded: {reason}.",
    "no_answer": "The server did not answer. Is it still running?",
    # toolbar
    "toolbar": "What is shown",
    "views": "View",
    "view_overview": "Overview",
    "view_side": "Pair",
    "view_swipe": "Swipe",
    "view_difference": "Difference",
    "zoom_out": "Zoom out",
    "zoom_in": "Zoom in",
    "zoom_fit": "Show the whole picture",
    "fullscreen": "Full screen",
    "layers": "Layers",
    "layer_photo": "Photo",
    "layer_classes": "Classes",
    "layer_heat": "Anomaly score",
    "layer_outline": "Outline",
    "colours": "Colours",
    "colours_inferno": "Inferno",
    "colours_viridis": "Viridis",
    "colours_cividis": "Cividis (colour-blind safe)",
    "colours_gray": "Gray",
    "ranging": "Range",
    "ranging_calibrated": "Fixed, calibrated",
    "ranging_picture": "This picture's own",
    "difference_of": "Difference of",
    "difference_of_score": "Anomaly scores",
    "difference_of_classes": "Classes",
    "reset": "Reset all of this",
    "link": "Link",
    "copy_link": "Copy a link to this view",
    "copied": "Copied",
    "link_without_picture": (
        "The link restores models, score and thresholds. Your own picture is not part of it: it "
        "stays on this machine."
    ),
    "show_tour": "Show the introduction",
    # downloads
    "download": "Download",
    "get_view": "This view (PNG)",
    "get_view_about": "what you see, at screen resolution",
    "get_page": "Comparison page (PDF)",
    "get_page_about": "one page with legend and settings, for a paper",
    "get_overlays": "Overlays (PNG)",
    "get_overlays_about": "classes and heat map, with outlines",
    "get_score16": "16-bit scores (PNG)",
    "get_score16_about": "over this picture's own minimum and maximum",
    "get_npz": "Raw scores (NPZ)",
    "get_npz_about": "32-bit floats, for NumPy",
    "get_regions": "Regions (COCO JSON)",
    "get_regions_about": "run-length encoded, with boxes and areas",
    "get_everything": "Everything (ZIP)",
    "get_everything_about": "all of the above, both models",
    # panes
    "pane_role": "picture viewer",
    "pane_classes": "Classes by {model}",
    "pane_heat": "Anomaly score by {model}",
    "pane_all": "Classes and anomaly score by {model}",
    "pane_difference": "Where {model} differ",
    "what_classes": "classes",
    "what_heat": "anomaly score",
    "swipe": "Where the left model ends and the right one begins",
    "classes_differ": "classes differ on {share} of the picture",
    "hover": "Point at a pixel for its values, click it for the reasons.",
    "keys": (
        "Arrow keys move the crosshair, with Shift by ten pixels. Plus and minus zoom, zero shows "
        "all. Enter explains the pixel. Square brackets move the threshold."
    ),
    "anomalous": "anomalous",
    "truth_0": "truth: known",
    "truth_1": "truth: anomaly",
    "truth_255": "truth: void",
    # thresholds
    "threshold": "Threshold",
    "threshold_of": "Threshold of {model}",
    "threshold_exact": "Threshold of {model}, as a number",
    "threshold_both": "Both thresholds",
    "threshold_spoken": "{value}, {area} of the picture",
    "preset_fpr05": "FPR 5 %",
    "preset_tpr95": "TPR 95 %",
    "preset_best_f1": "Best F1",
    "preset_middle": "Middle of the range",
    "preset_best_here": "Best F1 here",
    "least": "Smallest region",
    "pixels": "{n} px",
    "of_the_picture": "anomalous",
    "region": "region of {least} px or more ({area})",
    "regions": "regions of {least} px or more ({area})",
    "histogram": "Histogram of the scores, from {low} to {high}",
    "histogram_truth": "Histogram of the scores, from {low} to {high}; true anomalies in pink",
    "range_calibrated": (
        "Colours from {low} to {high}: nearly all pixels (0.5–99.5 %) of {data}. "
        "Here: {minimum} to {maximum}."
    ),
    "range_nominal": (
        "Uncalibrated: colours span the score's nominal range, {low} to {high}. "
        "Here: {minimum} to {maximum}."
    ),
    "range_picture": (
        "Colours span this picture's own {low} to {high}: something always glows, and two "
        "pictures cannot be compared."
    ),
    "curve": "Precision over recall; average precision {ap}",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "iou": "IoU",
    "average_precision": "AP",
    "sampled": (
        "Shown and counted at {width} × {height} of {full_width} × {full_height} pixels; downloads "
        "have them all."
    ),
    # legend
    "legend": "Classes",
    "legend_columns": "share of the picture, left and right; click to hide",
    "toggle_class": "Show or hide this class",
    "only": "only",
    "only_class": "Show only {name}",
    "all_classes": "Show all classes",
    "unknown_class": "not a class",
    # explanation
    "why": "Why here?",
    "why_at": "Why here? x {x}, y {y}",
    "why_hint": "Click a pixel of any picture above: both models' reasons appear here.",
    "why_read": (
        "A class score adds up what every query says: how sure it is of the class, times how "
        "surely its mask covers the pixel."
    ),
    "why_value": "{score}: {value}. Closest class: {name}.",
    "top_classes": "Class scores at this pixel",
    "claims": "The queries that speak for “{name}” here, and their masks:",
    "query": "Query {query}",
    "mask_of": "Mask of query {query}, {label}",
    "product": "{p} × {m} = {c}",
    "class_sum": "S({name}) = {parts} + {rest} (all other queries) = {total}",
    "score_msp": "Score = 1 − S({name}) = 1 − {largest} = {value}",
    "score_entropy": "Score = ({parts} + {others} (others)) ÷ {log} = {value}",
    "score_energy": "Score = −log({parts} + {others} (others)) = −({sum}) = {value}",
    "score_rba": "Score = −({parts} + {others} (others)) = {value}",
    "score_eam": "Score = 1 − ({parts} + {others} (others)) = {value}",
    # first visit
    "tour": "Introduction",
    "tour_maps": (
        "Left and right are two models. Above, the classes they see; below, where they see nothing "
        "they know: the brighter, the more anomalous. Ctrl and the wheel, or two fingers, zoom "
        "both."
    ),
    "tour_threshold": (
        "The threshold decides what counts as anomalous. Drag it: outlines, areas and regions "
        "follow at once."
    ),
    "tour_pixel": "Click any pixel to see why: which classes and which queries claim it.",
    "tour_more": "Swipe between the models, look at their difference, or download everything.",
    "tour_skip": "Skip",
    "tour_next": "Next",
    "tour_end": "Done",
}

BATCH: dict[str, str] = {
    "intro": (
        "Both models on many pictures, or on frames of a short video: find the ones worth a look. "
        "Left and right model and the score are those chosen above."
    ),
    "files": "Pictures or a video",
    "run": "Run",
    "cancel": "Cancel",
    "order": "Sort by",
    "anomalous area": "Anomalous area",
    "highest score": "Highest score",
    "models disagree": "Models disagree",
    "order given": "Order given",
    "gallery": "Left and right overlay, anomalies outlined",
    "table": "Numbers",
    "csv": "Table (CSV)",
    "zip": "All files (ZIP)",
    "open": "Open in Compare",
    "open_named": "Open {name} in Compare",
    "caption": "{name} · left {left}\u00a0% · right {right}\u00a0%",
    # progress, and what came of it
    "progress": "{number} of {total}",
    "progress_left": "{number} of {total} · {left} left",
    "seconds": "about {n} s",
    "minutes": "about {n} min",
    "done": "{done} of {total} pictures in {spent}.",
    "stopped": "Stopped after {done} of {total} pictures.",
    "none_done": "Stopped before the first picture was done.",
    "spent_seconds": "{n} s",
    "spent_minutes": "{n} min",
    "failed": "{n} could not be computed: the table says why.",
    # the table
    "column_name": "Picture",
    "column_area": "Anomalous",
    "column_regions": "Regions",
    "column_largest": "Largest",
    "column_highest": "Highest",
    "left": "Left",
    "right": "Right",
    # what can be wrong
    "nothing_given": "No picture was given: add pictures or a video first.",
    "not_files": "The pictures were not sent as files: upload JPEG, PNG or WebP files or a video.",
    "too_many": (
        "These are {given} pictures or more, at most {most} go into one batch (a video counts as "
        "up to {frames}). Remove some."
    ),
    "gone": "The file is no longer on the server: add it again.",
    "cut_off": "The video breaks off after {frames} of its frames.",
    "no_such_picture": "This picture is no longer kept on the server: run the batch again.",
}

KAN: dict[str, str] = {
    "intro": (
        "A KAN learns a function on every edge instead of a weight. These are the functions of "
        "`mask_embed`, which turns a query into its mask, and where this picture's queries fall on "
        "them."
    ),
    "model": "KAN model",
    "show": "Show",
    "welcome": "Choose a KAN model and press Show.",
    "computing": "Computing…",
    "not_loaded": "The functions could not be loaded: {reason}.",
    "no_answer": "The server did not answer. Is it still running?",
    "layers": "Layer",
    "layer": "Layer {n} · {i} → {o}",
    "norms": "Edge norms",
    "norms_picture": "on this picture",
    "norms_grid": "over the grid",
    "norms_spoken": "Norms of all edges: {i} inputs across, {o} outputs down",
    "point": "Point at an edge for its norm, click it for its function.",
    "pointed": "input {i} → output {o}: {norm}",
    "facts": (
        "Grid of {grid} intervals, splines of order {order}, base function {base}. Of the values "
        "that reach this layer from {picture}, {inner} lie outside the grid's inner part and "
        "{knots} beyond its last knots, where only the base function acts. Splines make {share} of "
        "what differs from query to query here, the base functions the rest."
    ),
    "strongest": "Strongest edges",
    "function": "Function",
    "input": "Input",
    "output": "Output",
    "curve_total": "the edge's function",
    "curve_spline": "its spline",
    "curve_base": "its base function",
    "curve_dot": "this picture's queries",
    "curve_spoken": "Function of input {i} to output {o}, from {low} to {high}",
    "read": (
        "{n} queries; mean size {norm}. {inner} of them outside the inner grid (shaded), {knots} "
        "beyond the knots (dotted)."
    ),
}

MODELS: dict[str, str] = {
    "intro": (
        "Bundled models are here already. Those from the Hugging Face Hub are fetched once and "
        "then work without network. Any repository that holds a Mask2Former, Mask2KAN or "
        "Mask2Anomaly checkpoint can be typed in."
    ),
    "choice": "Model",
    "choice_note": "Or type a Hub repository id: owner/name.",
    "download": "Download",
    "download_again": "Update",
    "cancel": "Cancel",
    "use_left": "Use left",
    "use_right": "Use right",
    # the list
    "list": "Models",
    "from_bundled": "bundled",
    "from_hub": "Hugging Face Hub",
    "from_file": "file on this machine",
    "scene_road": "Road",
    "scene_indoor": "Indoor",
    "licence": "Licence: {licence}",
    "licence_unknown": "see its page",
    "licence_file": "not stated",
    "state_bundled": "Bundled, {size}",
    "state_cached": "Downloaded, {size}",
    "state_absent": "Not downloaded",
    "state_file": "On this machine, {size}",
    # cards
    "card_none": "There is no card for this model.",
    "card_file": "`{name}` is a file on this machine. There is no card for it.",
    "card_hub": (
        "The card of `{repo}` comes with the download. Until then, its page is [{page}]({page})."
    ),
    "card_source": "*The card of [{repo}]({page}), as its authors wrote it, without pictures.*",
    # downloads
    "asking": "Asking the Hub for {name}…",
    "downloading": "{name}: {done} of {total}",
    "downloading_at": "{name}: {done} of {total}, {rate}/s, {left} left",
    "seconds": "{n} s",
    "minutes": "{n} min",
    "hours": "{n} h",
    "loading": "Computing…",
    "nothing_chosen": "Choose a model, or type a Hub repository id.",
    "none_chosen": "No model was chosen: pick one, or type a Hub repository id (owner/name).",
    "unknown": (
        "There is no model {name} here: choose one that is offered, or type a Hub repository id "
        "(owner/name).{hint}"
    ),
    "nearest": " Nearest: {names}.",
    "is_here": "{title} needs no download.",
    "done": "{title} is here: {size}.",
    "cancelled": "The download of {title} was cancelled.",
}
