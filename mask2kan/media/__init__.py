"""Images, videos and files: reading them safely, writing them whole."""
