// @ts-check
// Every way a picture gets in: the examples, a file, a drop, the clipboard, the camera; and a ground
// truth for a picture of one's own.

import { h } from './dom.js';

/** @typedef {import('./viewer.js').Viewer} Viewer */

export class Inputs {
  /** @param {Viewer} viewer */
  constructor(viewer) {
    this.viewer = viewer;
    const { t, props } = viewer;
    this.tiles = props.examples.map((example) => h('button', {
      type: 'button', class: 'm2k-tile', 'data-example': example.name, 'aria-pressed': 'false',
      onclick: () => viewer.session.open(example.name),
    }, h('img', { src: example.thumbnail, alt: '', width: 104, height: 58 }),
    h('span', {}, example.title), h('small', { 'data-verdict': example.verdict }, t('verdict_' + example.verdict))));
    this.file = fileField('picture-file', 'image/*', (file) => this.take(file));
    this.truthFile = fileField('truth-file', 'image/png,image/*', (file) => this.takeTruth(file));
    const button = (/** @type {string} */ name, /** @type {() => void} */ action) => h('button', {
      type: 'button', class: 'm2k-chip', 'data-input': name, onclick: action,
    }, t('input_' + name));
    this.addTruth = button('truth', () => this.truthFile.click());
    this.white = h('select', {
      id: 'truth-white', 'aria-label': t('white'), hidden: true,
      onchange: () => viewer.session.lookAgain({ white: this.white.value }),
    }, ['void', 'anomaly'].map((name) => h('option', { value: name }, t('white_' + name))));
    this.own = h('div', { class: 'm2k-drop' },
      h('span', {}, t('drop')),
      h('div', {}, button('file', () => this.file.click()), button('camera', () => this.camera()), this.addTruth, this.white),
      this.file, this.truthFile);
    this.root = h('div', { class: 'm2k-strip', role: 'group', 'aria-label': t('pictures') }, this.tiles, this.own);
    this.listen();
    this.mark('');
  }

  /** A picture pasted or dropped anywhere on the page is the next one to look at. */
  listen() {
    /** @param {DataTransfer | null} transfer */
    const pictureOf = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith('image/'));
    document.addEventListener('paste', (event) => {
      const file = pictureOf(event.clipboardData);
      if (file && !(/** @type {Element} */ (event.target).closest?.('input, textarea'))) this.take(file);
    });
    const { root } = this.viewer;
    root.addEventListener('dragover', (event) => {
      event.preventDefault();
      root.dataset.dragged = 'true';
    });
    for (const name of ['dragleave', 'drop']) root.addEventListener(name, () => { delete root.dataset.dragged; });
    root.addEventListener('drop', (event) => {
      event.preventDefault();
      const file = pictureOf(event.dataTransfer);
      if (file) this.take(file);
      else this.viewer.notice(this.viewer.t('not_a_picture'));
    });
  }

  /** @param {File} file */
  async take(file) {
    const { viewer } = this;
    const { session } = viewer;
    const { requests } = session;
    const mine = ++requests.latest; // whatever is underway is outdated now
    const shown = URL.createObjectURL(file);
    requests.wanted = { name: file.name, shown };
    session.wait();
    try {
      const { path } = await viewer.upload(file);
      if (mine === requests.latest) session.look({ path, name: file.name, shown });
    } catch {
      if (mine === requests.latest) session.fail(viewer.t('not_uploaded', { name: file.name }));
    }
  }

  /** A ground truth belongs to the picture on the stage, and goes with it. @param {File} file */
  async takeTruth(file) {
    const { viewer } = this;
    const { requests } = viewer.session;
    const { latest } = requests;
    try {
      const { path } = await viewer.upload(file);
      if (latest === requests.latest) viewer.session.lookAgain({ truth: path, white: this.white.value });
    } catch {
      viewer.notice(viewer.t('not_uploaded', { name: file.name }));
    }
  }

  /** Which example is on the stage, or is about to be; none for a picture of one's own. @param {string} example */
  mark(example) {
    for (const tile of this.tiles) tile.setAttribute('aria-pressed', String(tile.dataset.example === example));
    const { wanted } = this.viewer.session.requests;
    this.addTruth.hidden = !wanted?.path;
    this.white.hidden = !wanted?.truth;
    this.white.value = wanted?.white ?? 'void';
  }

  /** A snapshot, not mirrored: what is on the right of the road is on the right of the picture. */
  async camera() {
    const { t } = this.viewer;
    const video = h('video', { autoplay: true, playsinline: true, muted: true });
    const dialog = h('dialog', { class: 'm2k-camera', 'aria-label': t('input_camera') });
    /** @type {MediaStream | null} */
    let stream = null;
    const stop = () => {
      stream?.getTracks().forEach((track) => track.stop());
      dialog.remove();
    };
    const snap = h('button', {
      type: 'button', class: 'm2k-chip', 'data-camera': 'snap', disabled: true,
      onclick: () => {
        const canvas = h('canvas', { width: video.videoWidth, height: video.videoHeight });
        canvas.getContext('2d')?.drawImage(video, 0, 0);
        dialog.close();
        canvas.toBlob((blob) => blob && this.take(new File([blob], 'camera.png', { type: 'image/png' })));
      },
    }, t('camera_snap'));
    dialog.append(video, h('div', {}, snap, h('button', {
      type: 'button', class: 'm2k-chip', onclick: () => dialog.close(),
    }, t('cancel'))));
    dialog.addEventListener('close', stop);
    this.viewer.body.append(dialog);
    dialog.showModal();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment', width: { ideal: 1920 } } });
      if (!dialog.open) {
        stop();
        return;
      }
      video.srcObject = stream;
      video.addEventListener('playing', () => { snap.disabled = false; }, { once: true });
    } catch {
      dialog.close();
      this.viewer.notice(t('no_camera'));
    }
  }
}

/**
 * @param {string} id
 * @param {string} accept
 * @param {(file: File) => void} take
 */
function fileField(id, accept, take) {
  const field = h('input', {
    type: 'file', id, accept, hidden: true,
    onchange: () => {
      const [file] = field.files ?? [];
      if (file) take(file);
      field.value = ''; // the same file again is a choice, too
    },
  });
  return field;
}
