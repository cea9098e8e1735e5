// @ts-check
// Sizes of edges: unpacked, and in order.

import { unpack } from '../viewer/maps.js';

/** @import { PackedMatrix, RankedEdge, Sizes } from './types.js' */

const LARGEST_CODE = 65535;

/**
 * @param {PackedMatrix} packed
 * @returns {Promise<Sizes>}
 */
export async function unpackSizes({ codes, largest }) {
  const view = new DataView(await unpack(codes.url));
  const values = Float32Array.from({ length: view.byteLength / 2 },
    (_, i) => (view.getUint16(2 * i, true) / LARGEST_CODE) * largest);
  return { values, largest };
}

/**
 * The largest edges, largest first; those of size 0 are none.
 * @param {Sizes} sizes
 * @param {number} inputs
 * @param {number} count
 * @returns {RankedEdge[]}
 */
export function strongest({ values }, inputs, count) {
  return [...values.keys()]
    .filter((i) => values[i] > 0)
    .sort((a, b) => values[b] - values[a])
    .slice(0, count)
    .map((i) => ({ input: i % inputs, output: Math.floor(i / inputs), size: values[i] }));
}
