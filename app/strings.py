"""Every sentence the page shows, in one place: to translate the app, translate this module.

One dictionary per part of the page. Those of components that work in the browser are sent to them
as they are; ``{name}`` marks what is filled in.
"""

from __future__ import annotations

PAGE: dict[str, str] = {
    "title": "Mask2KAN",
    "small_print": (
        "A research demonstration, not a safety device. Pictures stay on the machine that runs "
        "this page. The bundled models learnt from Cityscapes and CamVid: research only."
    ),
    "tab_compare": "Compare",
    "tab_batch": "Batch",
    "tab_kan": "KAN",
    "tab_models": "Models",
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
    "broken": "This part of the page could not start ({reason}). Reload the page.",
    "not_taken": (
        "The app can't use what was sent: give pictures as uploaded files, and everything else as "
        "its API describes it."
    ),
}

QUEUE: dict[str, str] = {
    "place": "Place {place} in the queue, about {seconds} s.",
    "busy": "Too many visitors wait already. Try again in {seconds} s.",
    "too_many": "{count} jobs of yours wait already. Try again in {seconds} s.",
    "left": "Nobody waits for this any more.",
    "batch": "A batch of yours is running already. Wait for its end, or cancel it.",
    "restarting": "The server is restarting. Try again in half a minute.",
    "too_long": (
        "This took longer than {seconds} s and was stopped. Try a smaller picture or a smaller "
        "model."
    ),
    "decode_too_long": (
        "Can't read this file: decoding it took longer than {seconds} s. Use a smaller picture, or "
        "a shorter video."
    ),
    "decode_ended": (
        "Can't read this file: decoding it takes too much memory. Use a smaller picture or video."
    ),
    "ended": (
        "The process that computed this ended: most likely it ran out of memory. Try a smaller "
        "picture or a smaller model."
    ),
}

HTTP: dict[str, str] = {
    "not_understood": "The server can't make sense of this request. "
    "Send what /gradio_api/info describes.",
    "unknown_host": "This server does not go by the name {host!r}. Ask for it by its address, or "
    "start it with MASK2KAN_HOSTS=<that name>.",
    "foreign_origin": "Another site's page sent this request. Open this server's own page; if that "
    "was it, start the server with MASK2KAN_HOSTS=<its public name>.",
    "too_often": "Too many requests from your address. Try again in {seconds} s.",
    "uploads": "Too much was uploaded from your address. Try again in {seconds} s.",
    "share": "{count} jobs of yours wait already. Try again in {seconds} s.",
    "too_large": "This request is larger than the {limit} that are taken here.",
    "too_much_at_once": "Too many large requests arrive at once. Try again in {seconds} s.",
    "name": "The name of a session, an upload or an event has 1 to 64 letters, digits, - and _.",
    "kind": "Send JSON (Content-Type: application/json), or files to /gradio_api/upload.",
    "items": "This request's JSON has more than {most:,} values and signs. Send less at once.",
    "json": "This request's JSON can't be read: {why}.",
    "upload": "This upload can't be read: {why}. Send files as parts named files.",
    "closed": "There is nothing here.",
    "unread": "These answers were not read, and were dropped. Ask again.",
    "address": "The app fetches nothing from addresses. Download the file and upload it.",
    "cut": "it ended early",
}

UPLOAD: dict[str, str] = {
    "kind": "it is no multipart/form-data",
    "boundary": "its boundary must have 1 to {most} characters",
    "charset": "its charset must be UTF-8",
    "parts": "it has more than {most} parts",
    "headers": "a part has more than {most} bytes of headers",
    "name": "a file's name has more than {most} bytes, control characters, or only dots",
    "no_file": "a part is no file named files",
    "disk": "The server's disk is nearly full. Try again in two minutes.",
}

BAR: dict[str, str] = {
    "name": "Mask2KAN",
    "tagline": "finds what does not belong on the road",
    "choose": "Models and score",
    "chip": "{left} | {right} · {score}",
    "chip_spoken": "Models and score: {chip}",
}

COMPARE: dict[str, str] = {
    "no_models": (
        "No bundled models were found in weights/.\n"
        "Choose two models at the top right, or type Hub repository ids there."
    ),
    "no_example": "There is no example {name!r}: reload the page.",
    "nothing_chosen": "Choose a picture of the batch first.",
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
    "welcome": "Choose an example below, or drop in a picture of a road.",
    "computing": "Computing…",
    "cancel": "Cancel",
    "retry": "Try again",
    "back": "Back to the result before",
    "close": "Close",
    "not_loaded": "The result could not be loaded: {reason}.",
    "no_answer": "The server did not answer. It may be busy or no longer running.",
    "not_uploaded": "{name} could not be uploaded: the server did not take it.",
    "not_a_picture": "This is no picture: drop a JPEG, PNG or WebP file.",
    "compared": "Two models on one picture",
    # the answer
    "nothing_unusual": "nothing unusual; {share} of the picture above the threshold",
    "one_region": "1 unusual region",
    "one_region_where": "1 unusual region, {where}",
    "regions": "{n} unusual regions",
    "regions_where": "{n} unusual regions, the largest {where}",
    "on_the": "on the {name}",
    "before_the": "in front of {name}",
    "found_of": "found {found} of {objects} ({share} of the area), {alarms}",
    "wrongly": "; {share} of the picture wrongly marked",
    "judged_by": (
        "An object counts as found when half of it is marked, a region as a false alarm when it "
        "touches no object."
    ),
    "one_false_alarm": "1 false alarm",
    "false_alarms": "{n} false alarms",
    "no": "no",
    "nothing_to_find": "nothing to find here, but {alarms}",
    "rightly_silent": "nothing unusual, and rightly so",
    "unlike": "This picture is unlike what these models were trained on: expect false alarms.",
    # examples and other ways in
    "pictures": "Pictures",
    "verdict_found": "found",
    "verdict_hard case": "hard case",
    "verdict_normal": "normal",
    "verdict_indoors": "indoors",
    "drop": "Your own picture: drop it anywhere, paste it, or",
    "input_file": "Open a file",
    "input_camera": "Camera",
    "input_truth": "Add ground truth",
    "camera_snap": "Take the picture",
    "no_camera": "The camera can't be used: none was found, or the browser does not allow it.",
    "white": "What 255 means in the ground truth",
    "white_void": "255 is void",
    "white_anomaly": "255 is anomaly",
    # toolbar
    "toolbar": "What is shown",
    "layers": "Layers",
    "layer_photo": "Colour photo",
    "layer_photo_about": "The photo in colour",
    "layer_classes": "Classes",
    "layer_classes_about": "The class that each model gives a pixel",
    "layer_anomaly": "Anomaly",
    "layer_anomaly_about": "What passes the threshold: the brighter, the higher the score",
    "layer_truth": "Truth",
    "layer_truth_about": "The ground truth: found (green), missed (blue), false alarm (red)",
    "layer_truth_none": "This picture has no ground truth",
    "views": "View",
    "view_pair": "Pair",
    "view_swipe": "Swipe",
    "view_one": "One",
    "view_difference": "Difference",
    "which": "Model",
    "zoom": "Zoom",
    "zoom_out": "Zoom out",
    "zoom_in": "Zoom in",
    "zoom_full": "One pixel of the picture to one of the screen",
    "zoom_fit": "Show the whole picture",
    "fit": "Fit",
    "fullscreen": "Full screen",
    "adjust": "Adjust",
    "adjust_found": "What is found",
    "adjust_drawn": "How it is drawn",
    "threshold_of": "Threshold, {model}",
    "threshold_exact": "Threshold of {model}, as a number",
    "smallest": "Smallest region",
    "smallest_value": "{share} %",
    "smoothing": "Smoothing",
    "smoothing_value": "{share} %",
    "opacity_classes": "Classes",
    "opacity_anomaly": "Anomaly",
    "colours": "Colours",
    "colours_inferno": "Inferno",
    "colours_viridis": "Viridis",
    "colours_cividis": "Cividis (colour-blind safe)",
    "colours_gray": "Gray",
    "difference": "Difference of",
    "difference_score": "Anomaly scores",
    "difference_classes": "Classes",
    "reset": "Reset everything",
    "link": "Link",
    "copy_link": "Copy a link to this view",
    "copied": "Copied",
    "link_without_picture": (
        "The link restores models, score and thresholds. Your own picture is not part of it: it "
        "stays on this machine."
    ),
    "link_own": "The link was made on somebody's own picture, which is not part of it.",
    "link_vain": "The link asks for something that is not here: {what}.",
    # downloads
    "download": "Download",
    "get_view": "This view (PNG)",
    "get_view_about": "what you see, at screen resolution",
    "get_masks": "Masks (PNG)",
    "get_masks_about": "anomalies white on black, and classes as labels",
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
    "get_everything_about": "all files below, both models",
    # panes
    "pane_role": "picture viewer",
    "pane": "Picture with anomalies by {models}",
    "pane_difference": "Where {models} differ",
    "swipe": "Where the left model ends and the right one begins",
    "classes_differ": "classes differ on {share} of the picture",
    "hover": "Point at a pixel for its values, click or tap it for the reasons.",
    "keys": (
        "Arrow keys move the crosshair, with Shift by ten pixels. Plus and minus zoom, zero shows "
        "all. Enter explains the pixel. Square brackets move the threshold."
    ),
    "truth_0": "truth: known",
    "truth_1": "truth: anomaly",
    "truth_255": "truth: void",
    # thresholds
    "thresholds": "Threshold",
    "slider": "From fewer to more alarms",
    "slider_spoken": "{rate} of ordinary pixels marked",
    "fewer": "fewer alarms",
    "more": "more alarms",
    "left": "Left model",
    "right": "Right model",
    "axis": "The scale: share of ordinary pixels marked in {data}.",
    "axis_score": "The scale: the score itself, high on the left. It was not calibrated.",
    "presets": "Presets",
    "preset_default": "Default",
    "preset_default_rate": "Default · {rate}",
    "preset_few": "Few alarms · {rate}",
    "preset_many": "Miss little · {rate}",
    "preset_about": (
        "Marked {rate} of the ordinary pixels in {data}, and of the anomalous ones {recalls}"
    ),
    "preset_best_here": "Best here",
    "preset_best_about": "The largest F1 against this picture's ground truth",
    "of_picture": "{share} of the picture",
    "false_area": "{share} falsely marked",
    "histogram": "Histogram of the scores of {model}",
    "histogram_truth": "Histogram of the scores of {model}; true anomalies in pink",
    "precision": "P",
    "recall": "R",
    "f1": "F1",
    # side panel
    "panel": "What this means",
    "about": "What you see",
    "about_anomaly": (
        "Both models explain a picture with the classes they know: road, car, person… What none of "
        "them explains glows."
    ),
    "about_heads": (
        "They share everything but one small part: what turns an object into its mask. In one it "
        "is an MLP, in the other a Kolmogorov–Arnold network, which learns its functions."
    ),
    "about_better": "On average neither is better{figures}.",
    "studied": (
        ": average precision {kan} (KAN) and {mlp} (MLP) on {pictures} photos of RoadAnomaly"
    ),
    "about_click": "Click a place in the picture to see why it glows, or why not.",
    "facts": "About these two answers",
    "calibrated": "calibrated on {data}",
    "uncalibrated": "uncalibrated: nominal range",
    "legend": "Classes",
    "key_hit": "found",
    "key_missed": "missed",
    "key_alarm": "false alarm",
    "toggle_class": "Show or hide this class",
    "only": "only",
    "only_class": "Show only {name}",
    "all_classes": "Show all classes",
    "sampled": (
        "Shown and counted at {width} × {height} of {full_width} × {full_height} pixels; downloads "
        "have them all."
    ),
    # explanation
    "why": "Why here?",
    "plain_known": "Not unusual: this looks like {name} ({share} explained).",
    "plain_unknown": (
        "Unusual: no class explains this. The nearest are {name}, with {share}, and {second}."
    ),
    "plain_unknown_one": "Unusual: no class explains this. The nearest is {name}, with {share}.",
    "plain_near": (
        "Unusual by its surroundings or by doubt between classes: {name} explains {share} of this "
        "pixel."
    ),
    "why_more": "Masks and sums",
    "why_value": "{score} of this pixel, before smoothing: {value}",
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
}

BATCH: dict[str, str] = {
    "intro": (
        "Both models on many pictures, or on frames of a short video: find the ones worth a look. "
        "The models and the score are those chosen above; thresholds, smallest region and "
        "smoothing are those of Compare."
    ),
    "files": "Pictures or a video",
    "run": "Run",
    "cancel": "Cancel",
    "order": "Sort by",
    "anomalous area": "Anomalous area",
    "highest score": "Highest score",
    "models disagree": "Models disagree",
    "order given": "Order given",
    "order_table": "Column of the table",
    "view": "Pictures show",
    "view_photo": "Photo",
    "view_heat": "Heat",
    "read_thresholds": "Anomalous from a score of {left} on the left, {right} on the right.",
    "read_smallest_region": "Regions from {share}\u00a0% of the picture.",
    "read_smoothing": "Smoothed by {share}\u00a0% of the longer side.",
    "gallery": "The left and the right model's anomalies",
    # a video
    "strip": "Anomalous area over time: {model}",
    "moment": "{n} s",
    "frame": "{n} s: {left} left, {right} right",
    "play": "Play from here",
    "choose_frame": "Choose this frame",
    "table": "Numbers",
    "csv": "Table (CSV)",
    "zip": "All files (ZIP)",
    "open": "Open in Compare",
    "open_named": "Open {name} in Compare",
    "caption": "left {left}\u00a0% · right {right}\u00a0%",
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
    "column_area": "Area",
    "column_regions": "Regions",
    "column_largest": "Largest",
    "column_highest": "Highest",
    "column_disagree": "Differ",
    "pixels": "{n}\u00a0px",
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

# Of the page as others show it: link previews.
API: dict[str, str] = {
    "preview": (
        "Two models look at a road picture: a Kolmogorov–Arnold head beside a plain MLP head. Each "
        "says what it sees, and glows where no class it knows explains what is there."
    ),
    "preview_picture": "A road with a cow, as both models see it, and where their scores glow.",
}

KAN: dict[str, str] = {
    "intro": (
        "A KAN learns a function on every edge instead of a weight. Here are the functions of the "
        "head that turns each query into its mask (`mask_embed`), and where the queries of your "
        "picture fall on them."
    ),
    "model": "KAN model",
    "no_picture": "There is no picture to look at: choose one in Compare.",
    # while it computes, and when it could not
    "computing": "Computing the functions…",
    "computing_again": "Computing for the new choice; below is still the last one.",
    "not_loaded": "The functions could not be loaded: {reason}.",
    "no_answer": "The server did not answer. Is it still running?",
    "not_asked": "The server took no question: it is too busy, or no longer running.",
    "retry": "Retry",
    # the answer
    "answer": (
        "The splines carry {share} of what this head computes here; the rest is the base function."
    ),
    "measured": (
        "Measured on {picture} with {title}: the splines' share of what differs between its {n} "
        "queries, averaged over the layers."
    ),
    "layers": "Layer",
    "layer": "Layer {n}",
    "layer_sizes": "{i} {from} → {o} {to}",
    "from_query": "query channels",
    "hidden": "hidden channels",
    "to_mask": "mask channels",
    "layer_share": "{share} splines",
    "facts": (
        "Layer {n}: a grid of {grid} intervals, splines of order {order}, base function {base}. Of "
        "the values that reach it here, {inner} lie outside the inner grid, and {knots} beyond the "
        "last knots, where only the base function acts."
    ),
    # queries
    "queries": "Queries of this picture",
    "queries_read": (
        "Each query finds one mask. Choose one: the edges are then ranked for it, and its dot is "
        "marked on the function. The line under a mask is where its query falls on the function."
    ),
    "order": "Order of the queries",
    "order_weight": "largest first",
    "order_edge": "along the function",
    "query": "Query {query}",
    "area": "{area} area",
    "query_at": "at {x}",
    "all_queries": "All queries",
    # edges
    "ranking": "Rank edges",
    "ranking_spline": "by spline",
    "ranking_total": "whole edge",
    "ranking_grid": "no picture",
    "strongest": "Strongest edges",
    "strongest_for": "Strongest edges for query {query}",
    "ranked_spline": "How far the edge's spline moves this picture's values, on average.",
    "ranked_total": "How large the edge's function is on this picture's values, on average.",
    "ranked_grid": "How large the edge's function is over its inner grid, whatever the picture.",
    "ranked_query_spline": "How far the edge's spline moves the value of this query.",
    "ranked_query_total": "How large the edge's function is at the value of this query.",
    "edge_spoken": "Input {i} to output {o}: {size}",
    "map": "All edges",
    "map_spoken": "Sizes of all edges: {i} inputs across, {o} outputs down",
    "point": "Inputs across, outputs down. Point at an edge for its size, click it to see it.",
    "pointed": "input {i} → output {o}: {size}",
    # one edge
    "function": "Function of edge {i} → {o}",
    "input": "Input",
    "output": "Output",
    "range": "Range of the function",
    "range_values": "where the values are",
    "range_knots": "all knots",
    "axis_in_query": "Across: the value in channel {i} of the query.",
    "axis_in_hidden": "Across: the value in hidden channel {i}, the output of the layer before.",
    "axis_out_hidden": "Up: what this edge adds to hidden channel {o}, which the next layer reads.",
    "axis_out_mask": (
        "Up: what this edge adds to channel {o} of the mask embedding. A query's mask is, at every "
        "pixel, the sum over all such channels of the embedding times the pixel's own feature."
    ),
    "curve_total": "the edge's function",
    "curve_spline": "its spline",
    "curve_base": "its base function",
    "curve_dot": "queries, in the colour of their class",
    "curve_spoken": "Function of input {i} to output {o}, from {low} to {high}",
    "read": (
        "{n} queries: the function's mean size is {norm}, its spline's {spline}. {inner} of them "
        "lie outside the inner grid (shaded), {knots} beyond the knots (dotted)."
    ),
    "read_query": "Query {query}: {x} → {y}.",
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
    "card_longer": "*The card goes on in [its repository]({page}).*",
    # downloads
    "busy": "{count} models are being downloaded already. Try again in {seconds} s.",
    "crowded": "{count} visitors wait for downloads already. Try again in {seconds} s.",
    "absent": "The model {name} is not on this server yet. Download it on the Models tab first.",
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
