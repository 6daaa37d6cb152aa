"use strict";
// Before anything is drawn: the language and colours that this reader chose before, or whose browser says.
(() => {
  const root = document.documentElement;
  const kept = (key) => { try { return localStorage.getItem("nx8." + key); } catch { return null; } };
  const asked = { "#zh": "zh-CN", "#en": "en" }[location.hash];
  const spoken = (navigator.languages || [navigator.language || ""]).find((one) => /^(zh|en)/i.test(one)) || "en";
  const chosen = asked || kept("lang") || (/^zh/i.test(spoken) ? "zh-CN" : "en");
  root.lang = chosen === "en" ? "en" : "zh-CN";
  const theme = kept("theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  root.classList.add("js");
})();
