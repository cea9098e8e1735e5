// @ts-check
// The answer in one sentence for each model.

import { percent } from './dom.js';

/** @typedef {import('./dom.js').Translate} Translate */
/** @typedef {import('./finder.js').Found} Found */

const LITTLE = 0.005; // of the picture; less is the rim of what was found
// Classes that things stand on; of others a thing is seen in front.
const GROUND = /^(road|sidewalk|pavement|terrain|grass|field|floor|rug|path|sand|earth|ground|dirt track|runway|parking|rail track|drivable|non-drivable ground)\b/;

/**
 * @param {Translate} t
 * @param {Found} found
 * @param {import('./maps.js').Maps} maps
 */
export function verdict(t, found, maps) {
  if (found.judged) return judgement(t, found.judged, maps.codes.length);
  const above = maps.above[Math.min(found.q, maps.above.length - 1)] / maps.codes.length;
  if (!found.count) return t('nothing_unusual', { share: percent(above) });
  if (found.count === 1) {
    return found.ground === null ? t('one_region') : t('one_region_where', { where: where(t, maps, found.ground) });
  }
  return found.ground === null ? t('regions', { n: found.count })
    : t('regions_where', { n: found.count, where: where(t, maps, found.ground) });
}

/**
 * @param {Translate} t
 * @param {import('./maps.js').Maps} maps
 * @param {number} label
 */
function where(t, maps, label) {
  const { name } = maps.data.classes[label];
  return t(GROUND.test(name) ? 'on_the' : 'before_the', { name });
}

/**
 * Objects and false alarms are counts, which a flood of the whole picture would pass; so their areas
 * are said, too.
 * @param {Translate} t
 * @param {import('./finder.js').Judged} judged
 * @param {number} pixels of the picture
 */
function judgement(t, { found, objects, falseRegions, tp, fp, fn }, pixels) {
  const alarms = t(falseRegions === 1 ? 'one_false_alarm' : 'false_alarms', { n: falseRegions || t('no') });
  if (!objects) return falseRegions ? t('nothing_to_find', { alarms }) : t('rightly_silent');
  const words = t('found_of', { found, objects, alarms, share: percent(tp / (tp + fn)) });
  return fp < LITTLE * pixels ? words : words + t('wrongly', { share: percent(fp / pixels) });
}
