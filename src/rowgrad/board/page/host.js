// TensorBoard around the page: its colours, its reload button, whether the tab is visible.

const EVERY = 3000; // milliseconds between two polls

/** Follows TensorBoard between light and dark. */
export function followTheme(changed) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const around = window.parent === window ? null : window.parent.document.body;
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
  if (window.parent === window) return;
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.isReply) return;
    if (message.type === "experimental.DataReloaded") reload();
    port1.postMessage(JSON.stringify({ type: message.type, id: message.id, payload: null, error: null, isReply: true }));
  };
  window.parent.postMessage("experimental.bootstrap", "*", [port2]);
}

/** Polls every few seconds while the page is visible, and when it becomes visible. */
export function watchWhileVisible(look) {
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
