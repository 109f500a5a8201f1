// The few icons: strokes on a grid of 24. Each stands beside a text, or in a button that has a name.

import { svg } from './dom.js';

const PATHS = {
  jobs: 'M9 6h11M9 12h11M9 18h11M4.5 6h.01M4.5 12h.01M4.5 18h.01',
  timeline: 'M4 5v14M4 8h7M9 12h9M14 16h6',
  plugins: 'M9 3v5M15 3v5M6 8h12v3a6 6 0 0 1-12 0zM12 17v4',
  events: 'M3 12h4l3-8 4 16 3-8h4',
  failures: 'M12 4 21 20H3zM12 10v4M12 17h.01',
  nodes: 'M5 4h14v6H5zM5 14h14v6H5zM8.5 7h.01M8.5 17h.01',
  secrets: 'M8 15.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM11.5 12H21v3.5M17 12v2.5',
  play: 'M8 5.5v13l10.5-6.5z',
  pause: 'M9 6v12M15 6v12',
  resume: 'M6 6v12M11 6v12l8-6z',
  remove: 'M5 7h14M10 7V4.5h4V7M7 7l1 12.5h8L17 7M10.5 11v5M13.5 11v5',
  add: 'M12 5v14M5 12h14',
  theme: 'M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16',
  edit: 'M5 19l1-4L16 5l3 3L9 18zM14 7l3 3',
  close: 'M6 6l12 12M18 6 6 18',
  upload: 'M12 16V5M7.5 9.5 12 5l4.5 4.5M5 19h14',
  search: 'M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5 20 20',
  user: 'M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.5 20c.8-3.5 3.7-5.5 7.5-5.5s6.7 2 7.5 5.5',
};

export function icon(name) {
  return svg('svg.icon', { viewBox: '0 0 24 24', 'aria-hidden': 'true', focusable: 'false' }, svg('path', { d: PATHS[name] }));
}
