// Before anything is painted: the theme that this reader chose, if any.
try {
  const theme = localStorage.getItem("jeep-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // a browser that keeps nothing follows its own preference
}
