/** The page's address, `#view?settings`: what a reader shares, and where the browser's own buttons go. */

export function read() {
  const [view, query] = location.hash.slice(1).split("?");
  return { view, params: new URLSearchParams(query) };
}

/** Puts a view's settings into the address, and into the link that leads back to it. */
export function write(view, params) {
  const hash = `#${view}?${params}`;
  document.querySelector(`nav a[data-view=${view}]`).href = hash;
  if (read().view === view || !location.hash) history.replaceState(null, "", hash);
}
