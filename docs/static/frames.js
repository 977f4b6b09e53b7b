// Fit the frame of each live page to its content: the page tells its height whenever it changes.
// A frame does not shrink by little, so that text below it stays where it is from step to step.

window.addEventListener("message", (event) => {
  const frame = [...document.querySelectorAll("iframe")].find((one) => one.contentWindow === event.source);
  const height = Number(event.data?.einstrideHeight);
  if (!frame || !(height > 0 && height < 20000)) return;
  const now = frame.clientHeight;
  if (height > now || height < now - 200) frame.style.height = `${height + frame.offsetHeight - now}px`;
});
