// Counts 8-connected regions of "code >= q" away from the page's thread. Rows are read as runs;
// runs that touch, also at a corner, are joined by union-find.

const sides = new Map();

function find(parent, run) {
  while (parent[run] !== run) {
    parent[run] = parent[parent[run]];
    run = parent[run];
  }
  return run;
}

function regions({ codes, width, height }, q, least) {
  const most = ((width + 1) >> 1) * height;
  const start = new Int32Array(most);
  const end = new Int32Array(most);
  const parent = new Int32Array(most);
  let runs = 0;
  let before = 0; // first run of the row above
  for (let y = 0; y < height; y++) {
    const row = y * width;
    const first = runs;
    for (let x = 0; x < width; x++) {
      if (codes[row + x] < q) continue;
      const from = x;
      while (x < width && codes[row + x] >= q) x++;
      start[runs] = row + from;
      end[runs] = row + x;
      parent[runs] = runs;
      runs++;
    }
    let above = before;
    for (let run = first; run < runs; run++) {
      const [from, to] = [start[run] - width, end[run] - width];
      while (above < first && end[above] < from) above++;
      for (let other = above; other < first && start[other] <= to; other++) {
        parent[find(parent, other)] = find(parent, run);
      }
    }
    before = first;
  }
  const area = new Int32Array(runs);
  for (let run = 0; run < runs; run++) area[find(parent, run)] += end[run] - start[run];
  let count = 0;
  let pixels = 0;
  let largest = 0;
  let small = 0;
  for (let run = 0; run < runs; run++) {
    if (parent[run] !== run) continue;
    if (area[run] < least) {
      small += area[run];
      continue;
    }
    count++;
    pixels += area[run];
    largest = Math.max(largest, area[run]);
  }
  const dropped = new Uint32Array(small);
  for (let run = 0, at = 0; small && run < runs; run++) {
    if (area[find(parent, run)] >= least) continue;
    for (let i = start[run]; i < end[run]; i++) dropped[at++] = i;
  }
  return { count, pixels, largest, dropped };
}

onmessage = ({ data }) => {
  if (data.codes) {
    sides.set(data.side, data);
    return;
  }
  const result = regions(sides.get(data.side), data.q, data.least);
  postMessage({ ...data, ...result }, [result.dropped.buffer]);
};
