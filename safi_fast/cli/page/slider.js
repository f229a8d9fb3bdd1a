for (const range of document.querySelectorAll(".compare input")) {
  const show = () => {
    range.parentElement.style.setProperty("--at", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${range.value} % ${range.dataset.before}`);
  };
  range.addEventListener("input", show);
  show();
}
