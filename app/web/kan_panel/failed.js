// Gradio runs this when a question did not reach our callback: the queue is full, or nobody answers.
() => { document.dispatchEvent(new CustomEvent('mask2kan:kan-failed')); }
