// @ts-check
// What the panel gets from Python (`app/web/payload_kan.py`, `EdgeView`), and what its parts share.

/** @typedef {{ path: string, url: string }} ServedFile */
/** @typedef {{ codes: ServedFile, largest: number }} PackedMatrix 16-bit codes over the largest. */
/** @typedef {'spline' | 'total' | 'grid'} Ranking By spline, by whole function, without the picture. */

/**
 * @typedef {object} LayerPayload
 * @property {number} in_features
 * @property {number} out_features
 * @property {number} grid_size
 * @property {number} spline_order
 * @property {string} base_activation
 * @property {number} outside_inner
 * @property {number} outside_knots
 * @property {number} spline_share
 * @property {PackedMatrix} spline
 * @property {PackedMatrix} total
 * @property {PackedMatrix} grid
 */

/**
 * @typedef {object} QueryPayload
 * @property {number} query
 * @property {string} name Of its class.
 * @property {[number, number, number] | null} color
 * @property {number} probability
 * @property {number} weight
 * @property {number} area
 * @property {{ height: number, width: number, data: string }} mask
 */

/**
 * @typedef {object} KanPayload
 * @property {string | null} run
 * @property {string} model
 * @property {string} title
 * @property {string} picture
 * @property {ServedFile} photo
 * @property {number} num_queries
 * @property {number} spline_share
 * @property {LayerPayload[]} layers
 * @property {QueryPayload[]} queries
 */

/** @typedef {{ error: string }} Refusal */
/** @typedef {(KanPayload | Refusal) & { token: number }} Answer */
/** @typedef {{ spline: PackedMatrix, total: PackedMatrix }} QueryPayloadSizes */

/**
 * @typedef {object} EdgePayload
 * @property {number} layer
 * @property {number} input
 * @property {number} output
 * @property {number[]} x
 * @property {number[]} base
 * @property {number[]} spline
 * @property {number[]} total
 * @property {number[]} knots
 * @property {[number, number]} inner
 * @property {number[]} activations Of all queries.
 * @property {number[]} values The function at them.
 * @property {number} norm
 * @property {number} spline_norm
 * @property {number} outside_inner
 * @property {number} outside_knots
 */

/** @typedef {{ input: number, output: number }} Edge */
/** @typedef {Edge & { size: number }} RankedEdge */
/** @typedef {{ values: Float32Array, largest: number }} Sizes Of all edges, output by output. */
/** @typedef {(key: string, values?: Record<string, string | number>) => string} Translate */

/**
 * @typedef {object} Server
 * @property {(question: object) => Promise<EdgePayload | Refusal | undefined>} kan_edge
 * @property {(question: object) => Promise<QueryPayloadSizes | Refusal | undefined>} kan_query
 */

/**
 * @typedef {object} Props
 * @property {Answer | null} value
 * @property {string} model To begin with.
 * @property {Record<string, string>} strings
 * @property {string} files Where served files are, before their paths.
 * @property {[number, number, number][]} colours Of the map, 256.
 */

/** @typedef {{ run: string | null, model: string }} Wish Which picture and model to look at. */

export {};
