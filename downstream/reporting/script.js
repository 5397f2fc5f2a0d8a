'use strict';
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;

  // Light and dark: the reader's choice over the system's.
  document.getElementById('theme').addEventListener('click', () => {
    const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = dark ? 'light' : 'dark';
  });

  // The section that is read, in the row of links.
  const links = new Map(all('nav a').map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.classList.remove('here');
      links.get(entry.target.id).classList.add('here');
    }
  }, { rootMargin: '-70px 0px -70% 0px' });
  for (const id of links.keys()) seen.observe(document.getElementById(id));

  // Tables sorted by a column; cells without a value stay last.
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent.trim();
    const number = Number(text);
    return text === '' || text === '–' ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => (typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b)));
  for (const head of all('th[data-sort]')) {
    const sort = () => {
      const down = head.getAttribute('aria-sort') ? head.getAttribute('aria-sort') === 'ascending' : head.dataset.sort === 'down';
      for (const other of all('th', head.parentNode)) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const body = head.closest('table').tBodies[0];
      const rows = [...body.rows].map((row) => [value(row, head.cellIndex), row]);
      rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : compare(a, b) * (down ? -1 : 1)));
      body.append(...rows.map(([, row]) => row));
    };
    head.tabIndex = 0;
    head.addEventListener('click', sort);
    head.addEventListener('keydown', (event) => { if (event.key === 'Enter') sort(); });
  }

  // Tabs: one panel of a group is shown.
  for (const tabs of all('.tabs')) {
    const buttons = all('button', tabs);
    const show = (chosen) => {
      for (const button of buttons) {
        button.setAttribute('aria-pressed', button === chosen);
        document.getElementById(button.dataset.panel).hidden = button !== chosen;
      }
    };
    for (const button of buttons) button.addEventListener('click', () => show(button));
    show(buttons[0]);
  }

  // Pictures by kind of error and by class: the worst of a kind first.
  for (const filters of all('.filters')) {
    const gallery = document.getElementById(filters.dataset.gallery);
    const [order, only] = all('select', filters);
    const update = () => {
      const figures = all('figure', gallery);
      const kind = order.value;
      const count = (figure) => Number(JSON.parse(figure.dataset.counts)[kind] ?? 0);
      let shown = 0;
      for (const figure of figures) {
        const fits = (!only.value || JSON.parse(figure.dataset.classes).includes(only.value)) && count(figure) > 0;
        figure.hidden = !fits;
        shown += fits;
      }
      figures.sort((a, b) => count(b) - count(a) || a.dataset.place - b.dataset.place);
      gallery.append(...figures);
      filters.querySelector('output').textContent = `${shown} of ${figures.length} pictures`;
    };
    order.addEventListener('change', update);
    only.addEventListener('change', update);
    update();
  }
  for (const picture of all('.pictures img')) {
    picture.addEventListener('click', () => picture.closest('figure').classList.toggle('large'));
  }

  // Text to take along. A page opened from a file may have no clipboard: the text is selected instead.
  for (const button of all('.copied button')) {
    button.addEventListener('click', async () => {
      const text = button.parentNode.querySelector('pre');
      getSelection().selectAllChildren(text);
      try {
        await navigator.clipboard.writeText(text.textContent);
      } catch {
        if (!document.execCommand('copy')) { button.textContent = 'selected: Ctrl+C'; return; }
      }
      button.textContent = 'copied';
    });
  }

  // Values under the pointer.
  const SVG = 'http://www.w3.org/2000/svg';
  const numbers = (text) => text.split(' ').map(Number);
  for (const chart of all('svg.chart')) {
    const [left, right, low, high] = numbers(chart.dataset.x);
    const lines = all('polyline[data-name]', chart).map((line) => ({
      name: line.dataset.name, x: numbers(line.dataset.x), y: numbers(line.dataset.y), color: line.parentNode.classList[1],
    }));
    const tip = document.createElement('div');
    const cursor = document.createElementNS(SVG, 'line');
    tip.className = 'tip';
    cursor.setAttribute('class', 'cursor');
    const hide = () => { tip.remove(); cursor.remove(); };
    chart.addEventListener('pointermove', (event) => {
      const box = chart.getBoundingClientRect();
      const across = (event.clientX - box.left) / box.width * chart.viewBox.baseVal.width;
      const wanted = low + (Math.min(right, Math.max(left, across)) - left) / (right - left) * (high - low);
      const nearest = (line) => line.x.reduce((best, x, place) => (Math.abs(x - wanted) < Math.abs(line.x[best] - wanted) ? place : best), 0);
      tip.replaceChildren();
      let at = null;
      for (const line of lines.slice(0, 12)) {
        const place = nearest(line);
        at ??= line.x[place];
        const row = document.createElement('div');
        const swatch = document.createElement('i');
        swatch.className = `swatch ${line.color}`;
        row.append(swatch, `${line.name}: ${line.y[place]} at ${line.x[place]}`);
        tip.append(row);
      }
      if (at === null) return;
      const x = left + (at - low) / (high - low) * (right - left);
      for (const [key, number] of Object.entries({ x1: x, x2: x, y1: 22, y2: chart.viewBox.baseVal.height - 40 })) cursor.setAttribute(key, number);
      chart.append(cursor);
      chart.parentNode.append(tip);
      const room = chart.parentNode.getBoundingClientRect();
      tip.style.left = `${Math.max(0, Math.min(event.clientX - room.left + 14, room.width - tip.offsetWidth - 6))}px`;
      tip.style.top = `${event.clientY - room.top + 14}px`;
    });
    chart.addEventListener('pointerleave', hide);
  }
  root.dataset.ready = 'yes';
})();
