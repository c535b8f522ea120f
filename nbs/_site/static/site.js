// A box that scrolls can be reached with the keyboard
addEventListener("load", () => {
  for (const box of document.querySelectorAll(".highlight pre, .table-wrapper, .scroll, .output"))
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
});
