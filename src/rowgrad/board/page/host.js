// What is around the page: TensorBoard, with its colours and its reload button, or nothing, or a notebook.

const EVERY = 3000; // milliseconds between two polls
const data = document.getElementById("rowgrad-data"); // in a page that contains its data

/** The data in the page itself; null in TensorBoard. */
export const embedded = data && JSON.parse(data.textContent);
/** The window whose address the page uses: TensorBoard's, as the tab is in a frame of it, or its own. */
export const host = embedded ? window : window.parent;
/** Whether choices can be kept in the address: the text of a notebook's frame has none. */
export const hasAddress = !host.location.href.startsWith("about:");

/** Follows TensorBoard, or the system, between light and dark. */
export function followTheme(changed) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const around = host === window ? null : host.document.body;
  const set = () => {
    const isDark = around ? around.classList.contains("dark-mode") : dark.matches;
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    changed();
  };
  if (around) new MutationObserver(set).observe(around, { attributes: true, attributeFilter: ["class"] });
  dark.addEventListener("change", set);
  set();
}

/** Calls back when TensorBoard has reloaded its data, by its button or its timer. */
export function onReload(reload) {
  if (host === window) return;
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.isReply) return;
    if (message.type === "experimental.DataReloaded") reload();
    port1.postMessage(JSON.stringify({ type: message.type, id: message.id, payload: null, error: null, isReply: true }));
  };
  host.postMessage("experimental.bootstrap", "*", [port2]);
}

/** Polls every few seconds while the page is visible, and when it becomes visible; data in the page never change. */
export function watchWhileVisible(look) {
  if (embedded) {
    look();
    return look;
  }
  // TensorBoard keeps the pages of tabs that are not on, without any height.
  const isVisible = () => document.visibilityState === "visible" && window.innerHeight > 0;
  let [timer, looking, wasVisible] = [0, false, isVisible()];
  const next = async () => {
    clearTimeout(timer);
    if (looking || !isVisible()) return;
    looking = true;
    await look();
    looking = false;
    timer = setTimeout(next, EVERY);
  };
  const seen = () => {
    if (isVisible() && !wasVisible) next();
    wasVisible = isVisible();
  };
  document.addEventListener("visibilitychange", seen);
  window.addEventListener("resize", seen);
  next();
  return next;
}

/** Makes a notebook's frame as high as the page, up to a height. */
export function fitFrame(most = 900) {
  let frame = null;
  try {
    frame = window.frameElement;
  } catch {
    return; // of another origin
  }
  if (!embedded || !frame) return;
  new ResizeObserver(([{ target }]) => {
    frame.style.height = `${Math.min(Math.ceil(target.getBoundingClientRect().height) + 20, most)}px`;
  }).observe(document.body);
}
