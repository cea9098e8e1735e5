// The examples: one click is enough. Two tabs, roads and rooms.

import { h } from '../viewer/dom.js';

export function start({ element, props, trigger }) {
  const root = element.querySelector('.gal');
  const scenes = [...new Set(props.value.map((example) => example.scene))];
  const panels = scenes.map((scene) => h('div', {
    class: 'gal-pictures', id: `examples-${scene}`, role: 'tabpanel', 'aria-labelledby': `scene-${scene}`,
  }, props.value.filter((example) => example.scene === scene).map((example) => h('button', {
    type: 'button', 'data-example': example.name,
    onclick: () => trigger('example_chosen', { name: example.name }),
  }, h('img', { src: example.thumbnail.url, alt: '', width: 240, height: 120 }), h('span', {}, example.title)))));
  const choose = (chosen) => {
    tabs.forEach((tab, i) => {
      tab.setAttribute('aria-selected', String(i === chosen));
      tab.tabIndex = i === chosen ? 0 : -1;
      panels[i].hidden = i !== chosen;
    });
  };
  const tabs = scenes.map((scene, i) => h('button', {
    type: 'button', role: 'tab', id: `scene-${scene}`, 'aria-controls': `examples-${scene}`,
    onclick: () => choose(i),
    onkeydown: (event) => {
      if (event.key !== 'ArrowLeft' && event.key !== 'ArrowRight') return;
      const next = (i + (event.key === 'ArrowRight' ? 1 : -1) + tabs.length) % tabs.length;
      choose(next);
      tabs[next].focus();
    },
  }, props.strings[scene]));
  root.replaceChildren(
    h('div', { class: 'gal-scenes', role: 'tablist', 'aria-label': props.strings.examples }, tabs), ...panels);
  choose(0);
}
