// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/store"
)

// CNIError gives an error the code that CNI has for it: 7 for a configuration
// that can't be used, 11 for what may work later. An error that has a code
// keeps it.
func CNIError(err error) error {
	if err == nil {
		return nil
	}
	if typed, ok := errors.AsType[*types.Error](err); ok {
		if error(typed) == err {
			return err
		}
		return types.NewError(typed.Code, err.Error(), "")
	}
	return types.NewError(code(err), err.Error(), "")
}

func code(err error) uint {
	for _, known := range []struct {
		code uint
		errs []error
	}{
		{types.ErrInvalidNetworkConfig, []error{ErrConf, ipam.ErrInvalid, ipam.ErrOutside}},
		{types.ErrTryAgainLater, []error{store.ErrBusy, store.ErrPortHeld, ipam.ErrExhausted, ipam.ErrResting, ipam.ErrHeld}},
	} {
		for _, e := range known.errs {
			if errors.Is(err, e) {
				return known.code
			}
		}
	}
	return types.ErrInternal
}
