"""safi_fast where other libraries expect their own: each module looks like the library that it is named after.

    deepinv    SafiDenoiser and SafiReconstructor, for its algorithms and its physics
    skimage    denoise_safi, beside denoise_tv_chambolle
    monai      SafiDenoise and SafiDenoised, beside its transforms
    mrpro      SafiReconstruction, beside its reconstructions, and SafiDenoise for its images
    napari     a widget in its menu of plugins
    sigpy      SafiRecon and SafiSenseRecon, beside its apps

Importing this package loads nothing; a module imports its library, and only there torch.
"""
