element.addEventListener("click", (event) => {
  const button = event.target.closest(".vlm-pick");
  if (button) trigger("select", { index: Number(button.dataset.index) });
});
