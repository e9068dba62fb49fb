// The keyboard does what the mouse does: arrows read, Enter picks, + and − zoom steps, > and < rows, 0 shows all, s saves.

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** Acts on a key, for the heatmap that has the focus. */
export function actOnKey(event, heatmap, point, choice, acts) {
  const { series, range } = heatmap;
  if (!series?.steps.length || event.ctrlKey || event.metaKey || event.altKey) return;
  const [top, bottom] = heatmap.view;
  const row = point.row ?? top;
  const step = point.step ?? series.steps[Math.max(series.place(range[0]), 0)];
  if (event.key in ARROWS) {
    const [down, right] = ARROWS[event.key].map((one) => one * (event.shiftKey ? 10 : 1));
    const place = Math.min(Math.max(series.place(step) + right, 0), series.steps.length - 1);
    acts.hover(Math.min(Math.max(row + down, top), bottom - 1), series.steps[place]);
  } else if (event.key === "Enter" || event.key === " ") acts.pick(heatmap.quantity.name, row, step);
  else if (event.key === "Escape") choice.row === null ? acts.showAll() : acts.pick(null, null, null);
  else if (event.key === "+" || event.key === "-") {
    const half = (range[1] - range[0]) * (event.key === "+" ? 0.25 : 1);
    const [from, to] = [Math.max(step - half, 0), Math.min(step + half, series.last + series.stride)];
    acts.zoom(...(from <= 0 && to >= series.last ? [null, null] : [from, to]));
  } else if (event.key === ">" || event.key === "<") {
    const half = (bottom - top) * (event.key === ">" ? 0.25 : 1);
    acts.zoomRows(Math.max(row + 0.5 - half, 0), Math.min(row + 0.5 + half, series.height), series.height);
  } else if (event.key === "0") acts.showAll();
  else if (event.key === "s") acts.save(heatmap);
  else return;
  event.preventDefault();
}
