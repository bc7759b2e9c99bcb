"""The playground page, in headless Chromium and on its own."""
